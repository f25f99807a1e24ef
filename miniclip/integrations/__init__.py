"""MiniCLIP inside other packages."""
