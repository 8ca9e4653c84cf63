"""The images' install steps (`install.sh`), and a check of the Dockerfile without a container engine."""
