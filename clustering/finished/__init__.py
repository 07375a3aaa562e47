"""What is done with a finished run: new texts assigned, results evaluated, clusters made anew."""
