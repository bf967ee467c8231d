"""What a compiled step would take on machines that are not there."""
