"""The jobs behind the commands: everything put together for one workdir."""
