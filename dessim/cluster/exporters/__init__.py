"""Writers of clusters in other formats, one format a file. Each returns its text and sentences on what is lost."""
