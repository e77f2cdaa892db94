"""One module for each command of the command line, callable from Python with a request object."""
