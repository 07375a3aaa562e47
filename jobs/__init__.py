"""The commands: each module is one, and ``covey`` holds them all."""
