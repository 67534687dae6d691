"""What attacks and maps tell: measures, statistics, tables and claims."""
