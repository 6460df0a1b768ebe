"""What several packages share of the network: HTTP clients, the check of addresses, the project's JWKS, our own port.

Code that knows what KIE, a result host or Supabase Storage means lives in `kie`, `media` and `storage`.
"""
