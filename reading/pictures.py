def beside(name, page):
    return []
