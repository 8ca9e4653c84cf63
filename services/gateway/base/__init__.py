"""The ground: settings and quotas."""
