"""Fee summaries over HTTP: reports, the orders behind them, and what they are exact for."""
