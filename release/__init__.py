"""What a release consists of: one version in all places, and the two published distributions."""
