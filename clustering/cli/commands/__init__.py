"""The commands, one module each: its docstring is the help, ``add_arguments`` and ``execute`` are the rest."""
