"""Routing: the links that each flow crosses, the policy that chooses among equal routes, and multicast trees."""
