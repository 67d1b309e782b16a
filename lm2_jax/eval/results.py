from lm2_jax.report.results import *
from lm2_jax.report.results import replacing
