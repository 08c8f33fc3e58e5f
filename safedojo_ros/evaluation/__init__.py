"""How good and how safe a policy is: the protocol, and the statistics behind its intervals."""
