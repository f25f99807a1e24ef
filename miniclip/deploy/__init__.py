"""Trained models in use: indexes of images, and what searches them."""
