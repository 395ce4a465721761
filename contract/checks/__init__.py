"""Tools that check the contract, its changes, and recorded traffic against it."""
