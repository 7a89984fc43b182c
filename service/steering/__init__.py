"""Steering: find where a decoder's branches join the residual stream and add vectors there."""
