"""One module per rule of the workflow, of the rule's name: reads inputs and settings, writes outputs."""
