"""Ray: the session, nodes, reservations, single tasks, pools of actors, and exact search; graph/ works on blocks."""
