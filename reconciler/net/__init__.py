"""Outgoing HTTP that belongs to no single peer: clients, address checks, the webhook request, the project's JWKS.

Code that knows what KIE, a result host or Supabase Storage means lives in `kie`, `media` and `storage`.
"""
