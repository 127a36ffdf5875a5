"""Views: grids of tokens × layers as text, as one offline HTML file and as figures. They know no model."""
