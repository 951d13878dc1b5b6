"""srcip: certificates of the webhook."""
