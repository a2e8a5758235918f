"""The promises of the contract, each declared where it is checked."""
