"""The commands as scripts of a checkout; what is installed is ``covey`` (clustering/cli)."""
