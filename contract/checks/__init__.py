"""Tools that hold everybody to the contract: linters, breaking changes, recorded traffic."""
