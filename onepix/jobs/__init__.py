"""One module per rule of the workflow, with the same name: it reads inputs and settings, and writes outputs."""
