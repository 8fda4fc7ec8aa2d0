"""What every part of the program stands on: settings, files, devices, memory, processes, kept work."""
