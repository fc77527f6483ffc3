"""A report's page: its material, put into words, tables, plots and panels."""
