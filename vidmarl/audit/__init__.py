"""The whole picture of a victim: how often it is right about clean clips, about corrupted ones and
under attack, and where and when it is sensitive."""
