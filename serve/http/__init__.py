"""How HTTP is served: connections, the gate before every route, and answers for repeated requests."""
