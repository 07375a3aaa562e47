"""map.html: columns of a run in, one page out that needs no network; its scripts and styles lie beside this file."""
