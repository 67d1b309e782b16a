"""The sentence shapes of the generated prose.

A line "name:" begins a rule; after it come its forms, all equally likely, one a line or more with
" / " between them.
{rule} expands another rule or draws from a word list; {list:form} inflects the word (past, pp,
ing, inf, s, pl; see prose_forms); in a rule used as {rule:form}, * stands for that form.
A sentence has one kind of subject, feminine, masculine or plural: a form marked "f|", "m|", "p|" or
"s|" (f or m) is for that kind alone. ^ makes the next letter a capital.
"""

GRAMMAR = """
sentence:
{narrative}. / {narrative}. / {narrative}. / {description}. / {description}. / {report}.
{reflection}. / {speech}

narrative:
{subj} {vp:past} {when}
{subj} {vp:past} {when}
{when}, {subj} {vp:past}
{when}, {subj} {vp:past}
{sadly}, {subj} {vp:past} {when}
{subj} {manner} {vp:past}
{subj} {manner} {vp:past}
{subj} {vp:past} and {vp:past}
{subj} {vp:past} and then {vi:past}
{subj} {rest:past} {loc}, {vp:ing}
{subj} {rest:past} {loc}, {vp:ing}
having {vp:pp}, {subj} {vi:past}
having {vp:pp}, {subj} {manner} {vp:past}
after {vp:ing}, {subj} {vi:past}
{subj} had {vp:pp} long before {other} {act:past}
while {subj} {vp:past}, {other} {vi:past}
while {other} {vi:past}, {subj} {vp:past}
{subj} tried to {vp:inf}, but {hindrance}
{subj} wanted to {vp:inf}, but {hindrance}
unable to {vp:inf}, {subj} {manner} {vi:past}
{subj} could not {vp:inf} without {do_person:ing} {other}
instead of {vp:ing}, {subj} {vp:past}
{subj} {was} too {mood} to {vp:inf}
{subj} {was} {degree} {mood} when {other} {vp:past}
{mood} and {mood}, {subj} {vi:past}
{subj} caught a {fish} in the {place_adj} {water} {when}
{subj} {travel:past} through the {place_adj} {land}, {vi:ing}
{subj} {travel:past} past the {building} and {vp:past}
{subj} hired a {vehicle} and {travel:past} along the {road}
with {ahand} trembling, {subj} {vp:past}
{subj} had spent {number} {unit:pl} in {town}, {vp:ing}
{subj} taught {other} {study} and a little {study}
{subj} played the {instrument} {when} while {other} {act:past}
{subj} {do_person:past} {other} and {do_person:past} {other}
{subj} {vp:past}, {manner} and without {virtue}
{subj} loaded the {vehicle} with {goods} and {goods}
it was {degree} {judge} of {subj} to {vp:inf}
to {vp:inf}, {subj} had to {do_person:inf} {other}
{subj} ate {somefood} and drank {drink} {loc}
{subj} dreamt of {goods} and {goods}

description:
the {building} {stand:past} {landloc}, {place_adj} and {place_adj}
the {place_adj} {building} near {town} belonged to {other}
{number} {bird:pl} {bird_act:past} over the {place_adj} {land}
a flock of {bird:pl} {bird_act:past} near the {water}
a {animal_adj} {beast} {beast_act:past} {loc}
the {beast:pl} {beast_act:past} whenever the {weather} {weather_act:past}
the {plant_adj} {tree:pl} along the {road} shaded the {building}
{glow} {glow_do:past} the {part:pl} of the {building}
the {glow} {glow_do:past} the {colour} {flower:pl} and the {tree:pl}
the {sound} of a {noisy} {sound_do:past} the {beast:pl}
somewhere in the {building} a {noisy} made a faint {sound}
there was a {item} on the {furniture} and a smell of {smell} in the air
the {furniture} smelt of {smell} and {smell}
the {item} had belonged to {other} for {number} years
the {weather} {weather_do:past} the {place_adj} {land} {when}
it was a {sky_adj} {weekday} in {month}, {sky_adj} and {sky_adj}
the {water} {water_act:past} between the {tree:pl} and the {flower:pl}
a {place_adj} {road} wound between {town} and the {building}
the {part} of the {building} {break_down:past} {when}
the {item} {break_down:past} in the {sky_adj} air
a {colour} {insect} {insect_act:past} over the {flower:pl}
{number} {vehicle:pl} waited near the {place_adj} {road}
the {food_adj} {food} tasted faintly of {smell}
in {month} the {land} was thick with {flower:pl} and {herb}
{other} sold {goods} and {goods} near the {building}
{his} {item} was {degree} {thing_adj}
the {fields} beyond the {land} were {degree} {place_adj}
beyond the {land} lay {number} {building:pl} and a {place_adj} {water}
behind the {building} grew {crop:pl}, {herb} and {grain}
the {event} at {town} was {degree} {idea_adj} that {season}
most of the {trade:pl} in {town} had {feature} and {feature}
the {part:pl} were hung with {colour} {linen:pl}

report:
{subj} {know:past} that {clause}
{subj} {know:past} that {clause}
{subj} {often} {know:past} that {clause}
{subj} {know:past} {manner} that {clause}
according to {other}, {clause}
nobody in {town} {know:past} that {clause}
it was {rumoured} in {town} that {clause}
the {paper} from {town} announced that {clause}
in {his} {paper_adj} {paper}, {subj} {know:past} that {clause}
{subj} had heard of {anidea} from {other}
{subj} asked whether {clause}
{subj} wondered why {other} had {vp:pp}
{sadly}, {subj} had {vp:pp} before {other} {act:past}
{other} said nobody could {vp:inf} and {vi:inf}
the {paper} described how {subj} had {vp:pp}
although {clause}, {subj} {vi:past}
because {clause}, {subj} {vp:past}
since {clause}, {other} {vi:past}

reflection:
{virtue} {seldom} {virtue_do:s} {virtue}
{virtue} may {virtue_do:inf} {virtue}, but it {seldom} {virtue_do:s} {virtue}
{virtue} without {virtue} is a {idea_adj} {idea}
p| people who {do_virtue:inf} {virtue} {seldom} {vp:inf}
s| a {trade} who {do_idea:s} {anidea} {seldom} {do_virtue:s} {virtue}
p| most {trade:pl} {seldom} {vp:inf} before {meal}
p| {person_adj} {folk:pl} {often} {do_virtue:inf} {virtue} and {do_virtue:inf} {virtue}
there is {seldom} much {virtue} in a {idea_adj} {idea}
every {idea} begins with a little {virtue} and ends in {virtue}
{study} demands {virtue}, and {study} demands {virtue}
of all the arts, {study} {seldom} {virtue_do:s} {virtue}
{subj} had to choose between {virtue} and {virtue}
what {subj} called {virtue}, {other} called {virtue}
a {idea_adj} {idea} is {seldom} as {idea_adj} as a {idea_adj} {idea}
{virtue} is a {person_adj} {folk}, and {virtue} is a {person_adj} {folk}
no {idea} is so {idea_adj} that {virtue} cannot {virtue_do:inf} it
{virtue} grows in {virtue} as {flower:pl} grow in a {place_adj} {land}
a {person_adj} {trade} and a {person_adj} {trade} {often} make a {idea_adj} {idea}
for {number} {unit:pl} {subj} thought of {virtue} and of {anidea}
a {season} of {virtue} is worth {number} {season:pl} of {virtue}

speech:
"{quote}," {say:past} {subj}. / "{quote}," {subj} {say:past} {manner}.
{subj} {say:past}, "^{quote}." / "{quote}!" {say:past} {subj}, {vi:ing}.

quote:
I have never {vp:pp} / I have {often} {vp:pp} {when} / you must {vp:inf} before {meal}
we shall {vp:inf} on {weekday} / we ought to {do_person:inf} {other}
{virtue} is no substitute for {virtue} / the {weather} will {weather_act:inf} before {hour}
I would rather {vp:inf} than {vp:inf} / {other} has {vp:pp} again
never {do_person:inf} a {person_adj} {trade} / I cannot {do_idea:inf} such a {idea_adj} {idea}
your {item} is {degree} {thing_adj} / my {kin} was {person_adj} and {person_adj}

clause:
the {weather} would {weather_act:inf} {when} / {other} had {vp:pp} / {other} had {vp:pp}
{other} would {vi:inf} {when} / the {item} was {degree} {thing_adj}
the {idea} was {degree} {idea_adj} / {virtue} was only {virtue} in disguise
{he} would {vp:inf} {when} / {he} had {vp:pp} / the {road} to {town} was {degree} {place_adj}
the {beast:pl} had {beast_act:pp} {when} / {number} {vehicle:pl} had vanished near {town}
the {event} had been a {idea_adj} {idea}

hindrance:
the {weather} {weather_act:past} / {other} {do_person:past} {him} / the {noisy} {break_down:past}
{ahand} {ache:past} / the {idea} was too {idea_adj} / {other} {act:past}

subj:
s| {name} / s| {name} / s| {name} {surname} / s| the {trade} / s| the {person_adj} {trade}
s| the {trade} from {town} / s| the {person_adj} {folk} / p| the {trade:pl}
p| the {person_adj} {trade:pl} / p| the {number} {trade:pl} / p| {female} and {male}
p| the {trade} and the {folk} / p| both {folk:pl}

name:
f| {female} / m| {male}

he:
f| she / m| he / p| they

him:
f| her / m| him / p| them

his:
f| her / m| his / p| their

was:
s| was / p| were

ahand:
s| {his} {body} / p| {his} {body:pl}

other:
{title} {surname} / {title} {surname} / {his} {kin} / {his} {person_adj} {kin}
the {person_adj} {trade} / the {folk} / the {trade}

vp:
{do_thing:*} {thing} / {do_thing:*} {thing} / {do_thing:*} {thing} / {do_paper:*} {apaper}
{do_cloth:*} {cloth} / {do_food:*} {somefood} / {do_plant:*} {plants} / {do_place:*} {place}
{do_person:*} {other} / {do_idea:*} {anidea} / {make:*} a {made}

vi:
{act:*} / {act:*} {loc} / {rest:*} {loc} / {travel:*} around {town} / {travel:*} across the {land}

thing:
a {item} / the {item} / {his} {item} / the {trade}'s {item}

item:
{made} / {made} / {clay} {crockery} / {thing_adj} {crockery} / {thing_adj} {metalware}
{thing_adj} {woodware} / {thing_adj} {trifle} / {thing_adj} {instrument} / {colour} {trifle}

made:
{metal} {metalware} / {wood} {woodware}

noisy:
{metalware} / {instrument} / {vehicle}

goods:
{wood} {woodware:pl} / {metal} {metalware:pl} / {fabric} {clothes:pl} / {clay} {crockery:pl}
{colour} {linen:pl} / {trifle:pl} / {instrument:pl}

apaper:
a {paper_adj} {paper} / the {paper} / {his} {paper_adj} {paper} / the {trade}'s {paper}

cloth:
a {fabric} {clothes} / {his} {colour} {clothes} / the {colour} {linen}
{his} {thing_adj} {clothes} / the {trade}'s {fabric} {clothes}

somefood:
the {food} / {food_adj} {food} / {his} {food} / the {trade}'s {food_adj} {food}

drink:
{food_adj} cider / {food_adj} ale / {food_adj} tea / {food_adj} cocoa

plants:
the {flower:pl} / {his} {crop:pl} / the {plant_adj} {flower:pl} / {his} {herb} and {crop:pl}
the {colour} {flower:pl}

fields:
{building:pl} / {road:pl} / {tree:pl}

place:
the {building} / the {place_adj} {building} / the {place_adj} {land} / {town}
the {water} near {town}

anidea:
the {idea} / a {idea_adj} {idea} / {his} {idea} / the {trade}'s {idea}

loc:
by the {furniture} / beside the {water} / near the {building} / under the {tree}
behind the {building} / at the edge of the {land} / outside the {building} / in {town}
by the {part}

landloc:
at the edge of the {land} / beside the {water} / among the {tree:pl}
between the {road} and the {water}

when:
at {hour} / shortly before {hour} / long after {hour} / before {meal} / after {meal}
that {season} / on {weekday} / in {month} / late in {month} / early on {weekday}
the following {weekday} / during the {event} / after the {event}
on the {ordinal} day of the {event} / {number} {unit:pl} later
when the {weather} {weather_act:past}

rumoured:
said / rumoured / known / feared / thought / whispered
"""
