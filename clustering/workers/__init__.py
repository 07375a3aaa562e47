"""Ray: the session, nodes, reservations, single tasks, pools of actors, shards, and exact search."""
