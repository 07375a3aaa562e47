"""Ray: the session, the nodes, single tasks, pools of actors, and exact search on all of them."""
