"""What people type: ``covey`` and its commands, one a module; everything a command does is done by the layers below."""
