"""How many pods the sessions need, for whoever scales them: KEDA through `ExternalScaler`, or an HPA."""
