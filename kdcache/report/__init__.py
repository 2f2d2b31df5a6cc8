"""What is made of results for a person to look at: contact sheets, plots, tables."""
