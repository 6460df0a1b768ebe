"""Outgoing HTTP that several packages share: clients, the check of addresses, the project's JWKS.

Code that knows what KIE, a result host or Supabase Storage means lives in `kie`, `media` and `storage`.
"""
