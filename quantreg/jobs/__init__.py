"""Jobs on whole files: a Plan in, files out. Every job streams, so that memory does not grow with the model."""
