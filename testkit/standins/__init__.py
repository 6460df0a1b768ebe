"""What stands where KIE's or Supabase's servers would: real HTTP on loopback, never a mock inside the code."""
