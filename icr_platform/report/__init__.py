"""What a finished arm looks like: tables for the terminal, one HTML file, and figures that the inspector shows, too."""
