"""Fee summaries: kept up to date, counted again, proved, and rebuilt."""
