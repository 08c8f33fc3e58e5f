"""SafeLIBERO's scenes behind the interface of every world, and scripted experts for them."""
