"""What things cost here, each beside the floor that nothing can be cheaper than: notebook 08 and the command line."""
