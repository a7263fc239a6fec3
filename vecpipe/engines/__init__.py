"""Hosts that the operators are registered in; each engine is thin and imported only when used."""
