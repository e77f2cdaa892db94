"""Routes: which links each flow crosses, by which policy, and multicast trees."""
