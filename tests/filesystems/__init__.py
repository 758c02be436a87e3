"""The main job on real file systems that fail, fill up and lack things, each its test's own."""
