"""The command line and the client of the daemon's sockets.

The client side imports the standard library and the light modules of cachd alone: as an init
container it has little memory, and it should be gone in a moment when the model is there.
"""
