"""hubstate: show, keep and steer training runs with a hub that you own."""
