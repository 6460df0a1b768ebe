"""How answers look: tables, progress and the live view for people, JSON for programs. Nothing here asks for data.

Text from the application, from KIE and from storage is hostile input. It is shown as text, never as markup, and cannot
move the cursor.
"""
