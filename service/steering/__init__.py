"""Steering: finds where a decoder's blocks join the stream, adds vectors there, and generates."""
