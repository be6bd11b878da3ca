"""What a finished arm looks like: tables for the terminal, one HTML file, the published figures."""
